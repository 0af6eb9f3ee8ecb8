"""Starts the node, configures it, and activates it once that is done.

ros2 launch florence_edge_ros florence.launch.py image:=/camera/image_raw
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    """The node and its two transitions."""
    defaults = PathJoinSubstitution([FindPackageShare("florence_edge_ros"), "config", "florence.yaml"])
    image = LaunchConfiguration("image")
    node = LifecycleNode(
        package="florence_edge_ros",
        executable="florence_node",
        name="florence",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file")],
        remappings=[("image", image), ("image/compressed", [image, "/compressed"])],
        output="screen",
    )
    configure = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=Transition.TRANSITION_CONFIGURE)
    )
    activate = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=Transition.TRANSITION_ACTIVATE)
    )
    when_configured = RegisterEventHandler(
        OnStateTransition(target_lifecycle_node=node, goal_state="inactive", entities=[activate])
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("image", default_value="image", description="topic of the camera"),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
            DeclareLaunchArgument("params_file", default_value=defaults, description="YAML file with parameters"),
            when_configured,
            node,
            configure,
        ]
    )
