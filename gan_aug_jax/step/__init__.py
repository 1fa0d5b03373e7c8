"""Pure device code: everything that a compiled step is made of.

Arrays in, arrays out: no config, no files, no host state except the compiled programs.
May import `models` only. Start in `classifier`, the fused step. `synthesis` makes a
synthetic image; it enters the batch in `batches`.
"""
