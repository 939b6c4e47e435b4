"""Ground that knows no fit: checks of options, types, outcomes, names, trees."""
