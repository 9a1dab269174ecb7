"""Which fields of Daraja's messages hold secrets.

How they are removed: `domain/adapters/masking.py`.
"""

from __future__ import annotations

from domain.adapters.masking import SecretFields

# Daraja's timeout message echoes our request, credential and all (daraja.md §4.4). The address that
# we give it ends with the token by which we believe its messages (daraja.md §8.2).
SECRET_FIELDS = SecretFields(
    ("SecurityCredential", "Password", "InitiatorPassword", "access_token", "Authorization"),
    addresses=("CallBackURL", "ResultURL", "QueueTimeOutURL"),
    own_ids=("OriginatorConversationID", "OriginalConversationID"),
    times=("Timestamp",),
)
