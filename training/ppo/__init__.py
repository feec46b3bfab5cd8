"""PPO from stored rollouts."""
