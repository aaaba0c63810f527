"""What users do works for every model of the table, in the same way."""

import pytest

from tests.models.testers import skip_exempt
from tests.models.use import check_evaluation, check_pipeline, check_training_step, save
from transformers_msstsvis.models.auto import MODELS


@pytest.fixture(params=sorted(MODELS))
def name(request):
    skip_exempt(request.param, request.function.__name__)
    return request.param


def test_the_pipeline_takes_short_and_long_videos(name, tmp_path):
    check_pipeline(save(name, tmp_path))


def test_the_trainer_takes_a_step_saves_and_resumes(name, tmp_path):
    check_training_step(name, tmp_path)


def test_it_is_evaluated(name, tmp_path):
    check_evaluation(save(name, tmp_path / "model"), tmp_path / "data")
