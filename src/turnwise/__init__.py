"""turnwise: reinforcement learning for multi-turn tool-integrated reasoning, with credit per turn."""
