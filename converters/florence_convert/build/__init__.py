"""From lowered graphs to TensorRT engines that were measured, and a bundle of them.

Nothing is imported here, and no module below needs torch: engines are built on the device they run on.
"""
