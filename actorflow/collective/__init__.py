"""Groups of processes that hand tensors to each other: communicators, how they find each other, kept results."""
