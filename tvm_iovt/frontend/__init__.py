"""From a model file to a `Network`: static, simplified, with a reference to compare against."""
