"""Images from noise by inverting trained networks: shared by INFER, SRe2L and NRR-DD."""
