"""The name of a network's keys and values of what it has read, as argument and in its output."""

from dataclasses import fields

from transformers.modeling_outputs import BaseModelOutputWithPast

# transformers 5.24 says `cache`, 5.19 `past_key_values`; a network takes an argument it does not know
# without a sign and reads without its past.
PAST = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"
