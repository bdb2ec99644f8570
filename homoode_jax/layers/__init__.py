"""What layers of all frameworks share: arguments, options, starts and dropout; no Flax."""
