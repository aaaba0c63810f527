"""Makes the models known to the Auto classes, and the task to `transformers.pipeline`, when it is imported."""

from .models.auto import register_models
from .pipelines import register_pipeline

register_models()
register_pipeline()
