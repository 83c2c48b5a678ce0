"""Supervised learning before reinforcement learning: what is imitated, and how."""
