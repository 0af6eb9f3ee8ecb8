"""From a checkpoint to a bundle, and the proof that both give the same answers.

`export.export_bundle` converts, `verify.verify_bundle` compares; nothing is imported here, so that the command line can
list its subcommands without loading torch.
"""
