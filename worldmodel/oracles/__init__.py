"""Models whose evidence mathematics gives exactly: what every estimator of evidence is held against."""
