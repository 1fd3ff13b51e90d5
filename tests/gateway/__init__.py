"""What tests of the gateway stand on: jobs with claimed steps, providers that do as they are told, other processes."""
