"""The C core's Python face for what is off the way of a call: slots, mailbox settings, coroner, audit."""
