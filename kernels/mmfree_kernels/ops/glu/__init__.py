"""The gate of the channel mixer, forward and backward."""
