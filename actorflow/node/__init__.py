"""The node process and its zygote: they start, watch and settle the processes of one machine."""
