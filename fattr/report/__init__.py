"""What people read and look at: model cards and contact sheets."""
