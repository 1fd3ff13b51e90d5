"""Models in this process, through Apple's MLX: Metal on a Mac, the CPU on Linux.

question ── what is asked      folder ── where the model lies     memory ── whether it fits
engine   ── one thread that owns a model and batches what many threads ask; it knows nothing of MLX
engines  ── one for each model
model    ── that thread's side: load, batch (imports MLX)         constraint ── JSON by a schema (imports MLX)

Nothing here imports MLX before the engine's thread does.
"""

from providers.mlx.provider import MlxProvider as MlxProvider
