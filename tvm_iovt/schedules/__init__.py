"""Schedules that make an untuned build fast: layouts, packed weights, loops, per CPU."""
