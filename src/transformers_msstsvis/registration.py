"""
Makes the models known to the Auto classes, and the task to `transformers.pipeline`, when it is imported; and lets
models upload themselves.
"""

from .adapters import register_adapters
from .hub import push_to_hub
from .models.auto import register_models
from .models.vis.modeling_vis import VisPreTrainedModel
from .pipelines import register_pipeline

register_models()
register_adapters()
register_pipeline()
VisPreTrainedModel.push_to_hub = push_to_hub
