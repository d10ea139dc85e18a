"""The worker layer: takes calls from mailboxes and runs them."""
