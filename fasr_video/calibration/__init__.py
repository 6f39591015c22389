"""What scores mean, measured with the models at hand."""
