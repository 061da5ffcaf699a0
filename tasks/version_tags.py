"""Names under which the registry keeps a version: its aliases, and the tags that say its origin."""

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

DATASET_TAG, PREPARED_TAG = "orpo.dataset_id", "orpo.prepared_id"
SHA256_TAG = "orpo.adapter_sha256"
BASE_MODEL_TAG, BASE_REVISION_TAG = "orpo.base_model", "orpo.base_revision"
STARTED_FROM_TAG = "orpo.started_from"
"""Number of the version whose adapter a version began from; without it, from the base model."""
PRUNED_TAG = "orpo.pruned"
"""Of a version whose weights were deleted: when, and by which rule."""
