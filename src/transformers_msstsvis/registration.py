"""Makes the models known to the Auto classes, and the task to `transformers.pipeline`, when it is imported."""

from .models.auto import register
from .models.msstsvis.configuration_msstsvis import MsstsVisConfig
from .models.msstsvis.modeling_msstsvis import MsstsVisForVideoInstanceSegmentation, MsstsVisModel
from .models.seqformer.configuration_seqformer import SeqFormerConfig
from .models.seqformer.modeling_seqformer import SeqFormerForVideoInstanceSegmentation, SeqFormerModel
from .models.vis.image_processing_vis import MsstsVisImageProcessor, MsstsVisImageProcessorPil
from .models.vis.video_processing_vis import MsstsVisVideoProcessor
from .pipelines import register_pipeline

_IMAGE_PROCESSORS = {"torchvision": MsstsVisImageProcessor, "pil": MsstsVisImageProcessorPil}
for _classes in (
    (MsstsVisConfig, MsstsVisForVideoInstanceSegmentation, MsstsVisModel),
    (SeqFormerConfig, SeqFormerForVideoInstanceSegmentation, SeqFormerModel),
):
    register(*_classes, MsstsVisVideoProcessor, _IMAGE_PROCESSORS)
register_pipeline()
