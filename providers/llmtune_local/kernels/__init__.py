"""What makes a training step fast and changes no number: attention, rotary positions, fused layers."""
