"""Documentation and contributed files against the code."""
