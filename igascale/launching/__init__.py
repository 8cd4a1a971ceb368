"""What ``igascale launch`` does around a launcher's command: decide, check, start, watch, end, start again."""
