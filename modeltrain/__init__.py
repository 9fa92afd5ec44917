"""The network, its data, its training, its judgement and its versions."""
