"""DPO, KTO, SFT and reward models from the same rows, through TRL."""
