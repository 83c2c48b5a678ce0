"""Settings of every test: nothing is fetched, and torch keeps to one thread, so that busy machines do not stall it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
