"""Other people's simulators and our discrete-event model, to check the engines and the
timing with."""
