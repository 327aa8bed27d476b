"""Tasks: for each family of models, how a recipe becomes data, a training, results and figures."""
