"""What the task refuses before a training begins."""

import pytest

from schemas.config import RunConfig
from schemas.errors import UserError
from tasks.train import refuse_full_training


def test_the_main_job_trains_adapters() -> None:
    refuse_full_training(RunConfig())
    whole = RunConfig.model_validate({"training": {"method": "full"}})
    with pytest.raises(UserError, match="cannot evaluate or register a whole model"):
        refuse_full_training(whole)
