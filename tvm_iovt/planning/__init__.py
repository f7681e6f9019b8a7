"""From a model and targets to a plan: costs, measured or predicted, and the planner's problem."""
