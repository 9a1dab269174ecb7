"""The routes of webhook endpoints."""

from __future__ import annotations

from gateway.route import Route, SuccessResponse
from gateway.webhooks import views
from gateway.webhooks.schemas import DeliveryParameters, EndpointChangesBody, NewEndpointBody

_PATH = "/v1/webhook-endpoints"
_ONE = f"{_PATH}/{{endpoint_id}}"
_TAG = "Webhooks"
_NO_BODY = "Send no body, or `{}`."

CREATE_ENDPOINT = Route(
    name="createWebhookEndpoint",
    method="POST",
    path=_PATH,
    tag=_TAG,
    summary="Create a webhook endpoint (backends only)",
    description=(
        "From now on, every event is sent to the URL, signed as Standard Webhooks. The body is the "
        "event, and `webhook-id` its id. Any status from 200 to 299 accepts it. Otherwise the "
        "service tries again for three days, with growing waits. An endpoint may get an event more "
        "than once, and later events before earlier ones: order them by `sequence`.\n\n"
        "**This call is not idempotent, and `X-Idempotency-Key` has no effect on it.** If you get "
        "no answer, list your endpoints before you repeat the call. If the endpoint is there, get "
        "its secret by `rotate-secret`. If it is there twice, delete one of the two."
    ),
    body=NewEndpointBody,
    success_responses={
        201: SuccessResponse(
            views.WebhookEndpointWithSecret, "The endpoint is stored. Store its secret now."
        )
    },
)
LIST_ENDPOINTS = Route(
    name="listWebhookEndpoints",
    method="GET",
    path=_PATH,
    tag=_TAG,
    summary="List your webhook endpoints",
    success_responses={200: SuccessResponse(views.WebhookEndpointList, "All of your endpoints.")},
)
READ_ENDPOINT = Route(
    name="readWebhookEndpoint",
    method="GET",
    path=_ONE,
    tag=_TAG,
    summary="Read one webhook endpoint",
    success_responses={200: SuccessResponse(views.WebhookEndpoint, "The endpoint.")},
)
CHANGE_ENDPOINT = Route(
    name="changeWebhookEndpoint",
    method="PATCH",
    path=_ONE,
    tag=_TAG,
    summary="Change, disable or enable a webhook endpoint",
    description=(
        "An endpoint that is enabled again gets all events that it missed meanwhile. If you do not "
        "want them, delete the endpoint and create another one."
    ),
    body=EndpointChangesBody,
    success_responses={200: SuccessResponse(views.WebhookEndpoint, "The changed endpoint.")},
)
DELETE_ENDPOINT = Route(
    name="deleteWebhookEndpoint",
    method="DELETE",
    path=_ONE,
    tag=_TAG,
    summary="Delete a webhook endpoint",
    description=f"Nothing more is sent to it. {_NO_BODY}",
    success_responses={204: SuccessResponse(None, "The endpoint is deleted.", is_empty=True)},
)
ROTATE_SECRET = Route(
    name="rotateWebhookSecret",
    method="POST",
    path=f"{_ONE}/rotate-secret",
    tag=_TAG,
    summary="Replace the secret of a webhook endpoint",
    description=(
        "For 24 hours each message has a signature by the old secret too. The call is not "
        "idempotent: if you get no answer, repeat the call, and give the newest secret to your "
        f"receiver at once, because the secret before the last two is valid no more. {_NO_BODY}"
    ),
    success_responses={
        200: SuccessResponse(
            views.WebhookEndpointWithSecret, "The endpoint. Store its new secret now."
        )
    },
)
TEST_ENDPOINT = Route(
    name="testWebhookEndpoint",
    method="POST",
    path=f"{_ONE}/test",
    tag=_TAG,
    summary="Send an event of type mkwanja.test to a webhook endpoint",
    description=f"The test takes the same way as every event. {_NO_BODY}",
    success_responses={202: SuccessResponse(views.WebhookDelivery, "The test will be sent.")},
)
LIST_DELIVERIES = Route(
    name="listWebhookDeliveries",
    method="GET",
    path=f"{_ONE}/deliveries",
    tag=_TAG,
    summary="List the deliveries to a webhook endpoint, newest first",
    query=DeliveryParameters,
    success_responses={
        200: SuccessResponse(views.WebhookDeliveryPage, "A page of deliveries with all attempts.")
    },
)
REDELIVER = Route(
    name="redeliverWebhook",
    method="POST",
    path=f"{_ONE}/deliveries/{{number}}/redeliver",
    tag=_TAG,
    summary="Send the event of a delivery again",
    description=(
        "This makes another delivery, with the same `webhook-id`. But if the delivery is still "
        f"pending, it becomes due now, and the answer shows it. {_NO_BODY}"
    ),
    success_responses={202: SuccessResponse(views.WebhookDelivery, "The event will be sent.")},
)

WEBHOOK_ROUTES = (
    CREATE_ENDPOINT,
    LIST_ENDPOINTS,
    READ_ENDPOINT,
    CHANGE_ENDPOINT,
    DELETE_ENDPOINT,
    ROTATE_SECRET,
    TEST_ENDPOINT,
    LIST_DELIVERIES,
    REDELIVER,
)
