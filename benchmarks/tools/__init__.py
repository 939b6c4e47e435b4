"""What the scripts share: timing, reports, pictures, models and judges."""
