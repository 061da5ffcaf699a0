"""What a retraining begins from, on a real registry, and what is known of such versions' rows."""

from pathlib import Path

import pytest
from prepared import frame
from sites import Site, make_site

from orpo_pipeline.data.forgotten import mark_forgotten, unmark_forgotten
from orpo_pipeline.retention.removal import remove
from orpo_pipeline.training.warm_start import is_replayed
from schemas.config import LoraConfig, RunConfig
from schemas.errors import UserError
from schemas.results import PreparedData
from schemas.training_start import FROM_BASE, TrainingStart
from tasks.row_deletion import versions_that_used
from tasks.tracking import Tracker
from tasks.version_tags import PRUNED_TAG, STARTED_FROM_TAG
from tasks.warm_start.choosing import choose_start, find_start


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Sixty old rows; of the new ones thirty are among them. Version 1 is of the old ones."""
    folder = tmp_path_factory.mktemp("starting")
    made = make_site(folder, tiny_model, range(60), range(30, 90))
    made.register(1, made.old)
    return made


def start(site: Site, prepared: PreparedData | None = None, share: float = 0.5) -> TrainingStart:
    retraining = site.config.retraining.model_copy(
        update={"start": "champion", "replay_share": share}
    )
    config = site.config.model_copy(update={"retraining": retraining})
    return find_start(site.tracker(), config, prepared or site.new)


def champion(site: Site, version: str) -> None:
    site.tracker().client.set_registered_model_alias("tiny", "champion", version)


def train_rows(prepared: PreparedData) -> set[str]:
    return set(frame(prepared, "train")["row_id"])


def test_the_base_model_unless_asked_for_or_without_a_champion(site: Site) -> None:
    assert choose_start.fn(site.config, site.new) == FROM_BASE
    found = start(site)
    assert (found.warm, found.because) == (
        None,
        "from the base model, because there is no champion yet",
    )
    config = site.config.registry.model_copy(update={"model_name": "nobody-yet"})
    other = Tracker(config, site.home)
    retraining = site.config.retraining.model_copy(update={"start": "champion"})
    asked = site.config.model_copy(update={"retraining": retraining})
    assert "no champion yet" in find_start(other, asked, site.new).because


def test_the_champion_on_new_rows_and_a_share_of_its_own(site: Site) -> None:
    champion(site, "1")
    old, new = train_rows(site.old), train_rows(site.new)
    again = {row for row in old & new if is_replayed(row, 0.5)}
    assert 0 < len(again) < len(old & new)
    found = start(site)
    assert found.warm is not None and found.warm.version == "1"
    assert (found.warm.path / "adapter_model.safetensors").is_file()
    assert found.because == (
        f"from version 1, on {len(new - old)} rows that are new to it and {len(again)} that are not"
    )
    assert f"and {len(old & new)} that" in start(site, share=1).because
    assert "and 0 that" in start(site, share=0).because


def test_a_run_that_is_repeated_after_its_promotion_begins_from_where_it_began(
    site: Site,
) -> None:
    first = start(site)
    version = site.register(2, site.new, **{STARTED_FROM_TAG: "1"})
    champion(site, version)
    assert start(site) == first
    champion(site, "1")
    found = start(site, site.old)  # the champion's own data, and it began from the base model
    assert (found.warm, found.because) == (
        None,
        "from the base model, because version 1 was trained on these very data, and began from it "
        "itself",
    )


def test_a_version_whose_weights_were_deleted_is_nothing_to_begin_from(site: Site) -> None:
    champion(site, "2")
    client = site.tracker().client
    client.set_model_version_tag("tiny", "1", PRUNED_TAG, "on some day")
    found = start(site)  # version 2 was trained on these data, from version 1
    assert found.warm is None and found.because.endswith("the weights of version 1 were deleted")
    client.delete_model_version_tag("tiny", "1", PRUNED_TAG)


def test_rows_to_be_forgotten_are_not_in_a_model_s_ancestry(site: Site) -> None:
    (gone,) = sorted(train_rows(site.old) - train_rows(site.new))[:1]
    champion(site, "2")
    another = site.new.model_copy(update={"prepared_id": "of-later"})
    assert start(site, another).warm is not None
    mark_forgotten(site.home, [gone], "asked by mail")
    found = start(site, another)
    assert found.warm is None
    assert found.because.endswith("because version 2 was trained on 1 rows to be forgotten")
    unmark_forgotten(site.home, [gone])


def test_forgetting_names_versions_that_began_from_one_with_the_row(site: Site) -> None:
    (gone,) = sorted(train_rows(site.old) - train_rows(site.new))[:1]
    found = versions_that_used(site.config.registry, site.home, {gone})
    assert [(use.version, use.trained) for use in found] == [("2", 1), ("1", 1)]
    (new,) = sorted(train_rows(site.new) - train_rows(site.old))[:1]
    found = versions_that_used(site.config.registry, site.home, {new})
    assert [use.version for use in found] == ["2"]


def test_another_lora_is_an_error_with_both_sides(site: Site) -> None:
    champion(site, "1")
    retraining = site.config.retraining.model_copy(update={"start": "champion"})
    update = {"retraining": retraining, "lora": LoraConfig(r=8)}
    config: RunConfig = site.config.model_copy(update=update)
    with pytest.raises(UserError, match=r"lora\.r is 8, there 16") as caught:
        find_start(site.tracker(), config, site.new)
    assert "retraining.start=base" in caught.value.fix


def test_rows_that_are_held_out_now_were_not_trained_on(site: Site) -> None:
    champion(site, "1")
    turned = site.new.path.with_name("turned")
    turned.mkdir()
    for side, other in (("train", "eval"), ("eval", "train")):
        frame(site.new, other).write_parquet(turned / f"{side}.parquet")
    found = start(site, site.new.model_copy(update={"path": turned}))
    known = len(train_rows(site.old) & train_rows(site.new))
    assert found.because.endswith(f"version 1 was trained on {known} rows that are held out now")


def test_without_knowing_what_the_champion_has_seen_the_base_model(site: Site) -> None:
    champion(site, "1")
    remove(site.old.path)
    found = start(site)
    assert found.warm is None and found.because.endswith("trained on are not known here")
