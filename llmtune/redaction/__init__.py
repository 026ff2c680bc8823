"""What leaves the process, made safe to show: secrets are masked, control characters written out."""
