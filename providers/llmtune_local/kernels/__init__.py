"""What makes a training step fast and changes no number: attention, rotary embeddings, fused layers."""
