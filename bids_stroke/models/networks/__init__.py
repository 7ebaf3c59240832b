"""Networks of the papers beside nnU-Net's own; nnU-Net plans name them as ``network_class_name``.

Each takes ``input_channels``, ``num_classes`` and ``deep_supervision``, as nnU-Net calls a network,
and gives logits ``[batch, class, ...]``. MONAI and segmentation-models-pytorch have most of them;
they are imported when a network is built.
"""
