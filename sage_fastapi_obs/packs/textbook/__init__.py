"""The textbook pack: learning, rewards and blockchain transactions."""
