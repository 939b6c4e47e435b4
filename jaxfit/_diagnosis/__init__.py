"""Is the model right: goodness of fit, comparison of models, health reports."""
