"""The evidence of any `LatentSequence`, estimated and bounded: numbers, no words."""
