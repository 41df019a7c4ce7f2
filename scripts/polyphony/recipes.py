"""The world models of the table, by name. Their settings were chosen on the validation part of the chorales."""

from typing import Any

from scripts.polyphony.models import Recipe

INDEPENDENT = "independent"
HMM_STATES = (16, 64, 128, 256)
MAIN = "vrnn-categorical"  # whose pieces are drawn and written as MIDI

LEARNING: dict[str, Any] = {"optimizer.learning_rate": 5e-3, "loss.kl_warmup": 200}
CATEGORICAL: dict[str, Any] = {"rssm.latent": "categorical", "rssm.stoch": 1, "rssm.gradient": "marginal"}
GAUSSIAN: dict[str, Any] = {"rssm.latent": "gaussian", "rssm.stoch": 16}

RECIPES = {
    MAIN: Recipe(
        "RSSM with x_{t-1}, one categorical latent of 128 classes",
        {**LEARNING, **CATEGORICAL, "rssm.classes": 128, "decoder.units": 64},
        drop=0.2,
        epochs=24,
    ),
    "dmm-categorical-state": Recipe(
        "RSSM without x_{t-1}, one categorical latent of 128 classes",
        {**LEARNING, **CATEGORICAL, "rssm.classes": 128, "decoder.units": 64},
        reads_past=False,
        epochs=24,
    ),
    "dmm-categorical-groups": Recipe(
        "RSSM without x_{t-1}, eight categorical latents of 8 classes",
        {**LEARNING, **CATEGORICAL, "rssm.stoch": 8, "rssm.classes": 8, "decoder.units": 64},
        reads_past=False,
        epochs=24,
    ),
    "dmm-categorical": Recipe(
        "RSSM without x_{t-1}, one categorical latent of 256 classes, decoded alone",
        {**LEARNING, **CATEGORICAL, "rssm.classes": 256, "decoder.reads": "stoch"},
        reads_past=False,
        epochs=24,
    ),
    "vrnn-gaussian": Recipe("RSSM with x_{t-1}, 16 Gaussian latents", {**LEARNING, **GAUSSIAN}, drop=0.2, epochs=24),
    "dmm-gaussian": Recipe(
        "RSSM without x_{t-1}, 16 Gaussian latents", {**LEARNING, **GAUSSIAN}, reads_past=False, epochs=24
    ),
    "dmm-gaussian-smoothing": Recipe(
        "RSSM without x_{t-1}, 16 Gaussian latents, smoothing posterior",
        {**LEARNING, **GAUSSIAN, "rssm.posterior": "smoothing"},
        reads_past=False,
        epochs=24,
    ),
    "dmm-gaussian-plain": Recipe(
        "RSSM without x_{t-1}, 16 Gaussian latents, no KL warm-up, bits that start at one half",
        {"optimizer.learning_rate": 5e-3, **GAUSSIAN, "decoder.standardise": False},
        reads_past=False,
        epochs=24,
    ),
}
