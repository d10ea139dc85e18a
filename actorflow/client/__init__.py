"""The client layer: what every process that makes calls is made of."""
