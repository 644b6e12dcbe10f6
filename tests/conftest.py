"""Tests run on the CPU and without the network: models are tiny or shipped, and time is never asserted."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "disabled"  # transformer-lens brings wandb

from hypothesis import settings

settings.register_profile("worldprobe", deadline=None, derandomize=True)
settings.load_profile("worldprobe")
