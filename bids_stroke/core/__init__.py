"""Pure numerics on arrays and affines: no nipype, no configuration."""
