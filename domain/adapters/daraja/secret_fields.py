"""The fields of Daraja's messages that hold secrets. `domain/adapters/masking.py` removes them."""

from __future__ import annotations

from domain.adapters.masking import SecretFields

# Daraja's timeout message echoes our request with its credential (daraja.md §4.4). Each address
# that we send ends with a secret token, which proves that a message comes from Daraja (daraja.md
# §8.2).
SECRET_FIELDS = SecretFields(
    ("SecurityCredential", "Password", "InitiatorPassword", "access_token", "Authorization"),
    addresses=("CallBackURL", "ResultURL", "QueueTimeOutURL"),
    own_ids=("OriginatorConversationID", "OriginalConversationID"),
    times=("Timestamp",),
)
