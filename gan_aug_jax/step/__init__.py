"""Pure device code: everything that a compiled step is made of.

Arrays in, arrays out: no config, no files, no host state but the compiled programs. May
import `models` only. Start reading in `classifier`, the fused step: a synthetic image
enters the batch in `compose`.
"""
