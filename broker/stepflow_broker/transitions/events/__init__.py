"""Events: the stream and its routing, its consumers, the events that are delayed, and those that are set aside."""
