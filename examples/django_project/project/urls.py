"""The URLs, and the view that answers each."""

from django.urls import path
from visits import views

urlpatterns = [
    path("visits", views.count),
    path("visits/<str:page>", views.visit),
    path("health/ready", views.ready),
]
