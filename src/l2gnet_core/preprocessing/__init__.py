"""What a network is shown of a scan: intensities, size, sharpness."""
